"""Image classification by one network, and what other systems that classify images inherit."""
