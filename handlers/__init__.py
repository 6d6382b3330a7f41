"""Job types: what is done with the items of one request."""
