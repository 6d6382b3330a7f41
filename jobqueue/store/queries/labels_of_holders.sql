SELECT DISTINCT label FROM concurrency_holders WHERE holder = ANY (%(holders)s::text[])
