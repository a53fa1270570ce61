"""Times as the registry keeps them: microseconds since 1970 in UTC inside, ISO 8601 outside."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from catechism.errors import UnknownDate, UsageError

_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def micros(time: datetime) -> int:
    """Microseconds since 1970. Raises UsageError for a time without a zone."""
    if time.tzinfo is None:
        raise UsageError(f"The time {time} has no zone. Give it one: datetime.now(timezone.utc).")
    return (time - _ORIGIN) // timedelta(microseconds=1)


def text(moment: int) -> str:
    """ISO 8601 with microseconds; sorts as the times do."""
    return (_ORIGIN + timedelta(microseconds=moment)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def end_of(when: str) -> int:
    """The last moment that a date or a time names: a date means until its end, in UTC; a time without zone is UTC.

    Raises:
        UnknownDate: it is neither.
    """
    try:
        if len(when.strip()) <= len("2026-11-21"):
            day = date.fromisoformat(when.strip())
            return micros(datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)) - 1
        time = datetime.fromisoformat(when.strip())
        return micros(time if time.tzinfo else time.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise UnknownDate(
            f"{when!r} is no date. Write it as 2026-11-21, or with the time as 2026-11-21T09:00:00Z."
        ) from None
