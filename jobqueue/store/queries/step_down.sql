DELETE FROM leader_leases WHERE role = %(role)s AND holder = %(holder)s
