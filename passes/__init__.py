"""The passes: one file each, one small class with typed options and one method that returns a result."""
