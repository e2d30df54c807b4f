"""Does a program do what its tests ask, without doing anything else?"""
