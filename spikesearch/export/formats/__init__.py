"""The formats that a network can be exported to: a file each, called like the format, which registers itself."""
