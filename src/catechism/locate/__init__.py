"""Where a fact lives in a network, by measurement."""
