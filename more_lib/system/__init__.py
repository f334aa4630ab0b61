"""What is not about the method: errors, files, locks, devices, processes, progress, weights."""
