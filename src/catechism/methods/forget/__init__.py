"""Methods of forgetting, a file each; `catechism.methods.forgetting` lists them."""
