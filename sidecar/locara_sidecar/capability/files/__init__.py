"""Files of the user's, read and written below a granted folder or as picked, and never beside it."""
