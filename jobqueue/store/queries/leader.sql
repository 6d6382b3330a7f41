SELECT holder FROM leader_leases WHERE role = %(role)s AND lease_until > now()
