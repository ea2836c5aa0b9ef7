"""The engines: each turns a batch of items into a vector or an error for every one of them."""
