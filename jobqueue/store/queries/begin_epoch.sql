INSERT INTO limiter_epochs (provider, epoch, run_id) VALUES (%(provider)s, 1, %(run_id)s)
ON CONFLICT (provider) DO UPDATE SET epoch = limiter_epochs.epoch + 1, run_id = excluded.run_id
RETURNING epoch
