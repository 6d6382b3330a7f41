INSERT INTO batch_configs (provider, operation, min_size, optimal_size, max_size)
VALUES (%(provider)s, %(operation)s, %(min_size)s, %(optimal_size)s, %(max_size)s)
ON CONFLICT (provider, operation) DO UPDATE
SET min_size = excluded.min_size, optimal_size = excluded.optimal_size, max_size = excluded.max_size
RETURNING provider, operation, min_size, optimal_size, max_size
