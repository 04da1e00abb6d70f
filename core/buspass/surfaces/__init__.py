"""How agents write: the request and answer shapes of each API that Buspass speaks. Knows no provider and no price."""
