INSERT INTO limiter_epochs (provider, config_version) VALUES (%(provider)s, 1)
ON CONFLICT (provider) DO UPDATE SET config_version = limiter_epochs.config_version + 1
RETURNING config_version
