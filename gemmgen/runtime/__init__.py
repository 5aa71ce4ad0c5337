"""From CUDA source to a launched kernel: NVRTC, the cubin cache, the driver, tensor maps and launches.

Importing this package imports neither ``cuda`` nor ``torch``; its modules load them when first needed.
"""
