"""The console page. Nothing is served at /console/ in this release."""
