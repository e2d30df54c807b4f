"""What do people say of answers, and where is it kept? Items to rank, events of people, files made of them; no web in here."""
