"""Commands of `zit`, one file a group: each has ``add``, which registers them; libraries are imported inside."""
