"""The user's files, read and written in a granted folder or as picked, and nowhere else."""
