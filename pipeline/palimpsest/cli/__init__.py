"""The commands: app.py registers them, one file per command; console.py prints."""
