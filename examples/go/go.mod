module mfa-example

go 1.19
