"""Postgres: the truth. The only package that speaks SQL; one statement a file in ``queries/``."""
