-- 0003_defaults: the providers this project ships and the limits it assumes until somebody sets others.
-- The limits are ours: no provider publishes its number. YouTube's are weighted units; its daily one resets at midnight Pacific.
INSERT INTO providers (name, base_url, token_url) VALUES
    ('spotify', 'https://api.spotify.com/v1', 'https://accounts.spotify.com/api/token'),
    ('apple_music', 'https://api.music.apple.com/v1', ''),
    ('youtube_music', 'https://www.googleapis.com/youtube/v3', 'https://oauth2.googleapis.com/token'),
    ('tidal', 'https://openapi.tidal.com/v2', 'https://auth.tidal.com/v1/oauth2/token'),
    ('noop', 'http://127.0.0.1', '');

INSERT INTO rate_limit_configs (provider, windows) VALUES
    ('spotify', '100 per 1 minute'),
    ('apple_music', '1000 per 1 hour'),
    ('tidal', '200 per 1 minute'),
    ('noop', '100000000 per 1 minute');
INSERT INTO rate_limit_configs (provider, windows, unit_windows) VALUES
    ('youtube_music', '100 per 1 minute', '10000 per 1 day');

INSERT INTO batch_configs (provider, operation, optimal_size, max_size) VALUES
    ('spotify', '*', 25, 40),
    ('spotify', 'remove_from_playlist', 100, 100),
    ('spotify', 'insert_into_playlist', 25, 100),
    ('apple_music', '*', 15, 25),
    ('youtube_music', '*', 1, 1),
    ('tidal', '*', 20, 50),
    ('noop', '*', 100, 1000);

INSERT INTO limiter_epochs (provider) SELECT name FROM providers;
