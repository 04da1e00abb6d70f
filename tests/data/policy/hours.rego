package shop.hours

default open := false

open if input.host.name != "night"
