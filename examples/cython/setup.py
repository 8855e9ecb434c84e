from Cython.Build import cythonize
from setuptools import Extension, setup

import mfa

# mfa.capi hands out libmfa's functions, so there is nothing to link and no path to find at run time.
module = Extension("cyattention", ["cyattention.pyx"], include_dirs=[mfa.get_include()])
setup(ext_modules=cythonize([module], language_level=3))
