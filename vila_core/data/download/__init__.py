"""Fetch the images of a corpus that is published as addresses. Light: no HTTP library here."""
