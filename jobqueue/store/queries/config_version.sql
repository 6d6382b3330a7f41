SELECT config_version FROM limiter_epochs WHERE provider = %(provider)s
