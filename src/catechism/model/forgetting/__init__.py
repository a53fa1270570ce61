"""Training a model to forget: what it learns from, side paths over many blocks, and the descent that ends in time."""
