"""What is not about the method: errors, files, devices, processes, progress, weights on disk."""
