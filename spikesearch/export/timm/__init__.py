"""Networks for timm: the model, its registration, and the folder that timm reads."""
