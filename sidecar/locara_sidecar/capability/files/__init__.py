"""The user's files, read and written below a granted folder or as picked, and nowhere else."""
