// liburing.h defines _XOPEN_SOURCE, which would change libc's types in this module only. Having
// read the feature macros before it takes the effect away.
#include <features.h>
#include <liburing.h>
