-- Changes of one provider's limits go one after the other, so that none writes back what another has changed.
SELECT name FROM providers WHERE name = %(provider)s FOR NO KEY UPDATE
