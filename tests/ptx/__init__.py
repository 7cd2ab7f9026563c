"""The CUDA kernels without a GPU: their PTX, which nvcc makes, runs as C++ on the CPU (emulator.h)."""
