"""Pure tests that mirror the sources: time is passed in, Redis is fakeredis; the whole folder within seconds."""
