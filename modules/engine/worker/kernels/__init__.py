"""CUDA kernels, compiled where they run by the NVRTC that torch brings."""
