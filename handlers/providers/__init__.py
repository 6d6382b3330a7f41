"""Providers: what they can do to items, and how it is asked of them."""
