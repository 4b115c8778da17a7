"""docker-kernel: Jupyter kernels that live in containers, and whose live state can be sent anywhere."""

__version__ = "0.1.0"
