"""Who is compared, and what do they say?"""
