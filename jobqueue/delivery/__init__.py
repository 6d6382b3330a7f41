"""RQ and rq-scheduler carry hints; losing all they hold loses nothing. The only package that speaks to either."""
