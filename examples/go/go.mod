module example.org/mfa-example

go 1.19
