"""Methods that train: a change found by gradient descent."""
