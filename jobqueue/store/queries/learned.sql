SELECT scope, learned -> 'windows' AS learned, (extract(epoch FROM now()) - (learned ->> 'at')::numeric)::double precision AS kept_for_s
FROM provider_rate_state WHERE provider = %(provider)s AND learned <> '{}'
