"""Front ends: from a model in another format to a `Module`."""
