"""One self-contained HTML page about what a feed did to a model."""

from catechism.page.page import Page, Picture, Row, write_page

__all__ = ["Page", "Picture", "Row", "write_page"]
