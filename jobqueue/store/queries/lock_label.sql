-- Held to the end of the transaction: one at a time asks for, gives up or tidies a label.
SELECT pg_advisory_xact_lock(hashtextextended('concurrency label ' || %(label)s::text, 0))
