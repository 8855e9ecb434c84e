#include <mfa.h>
