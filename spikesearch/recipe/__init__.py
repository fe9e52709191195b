"""Studies of recipes: how one network is trained by itself."""
