"""Celery app, schedule and tasks: each task is one call of a service."""
