"""kronsgd: wide two-layer networks on products of features, trained exactly and without building the product."""
__version__ = "0.1.0"
