SELECT 1 AS yes WHERE to_regclass('schema_migrations') IS NOT NULL
