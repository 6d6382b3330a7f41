SELECT min_size, optimal_size, max_size FROM batch_configs
WHERE provider = %(provider)s AND operation IN (%(operation)s, '*')
ORDER BY operation = '*' LIMIT 1
